"""Use /console as people do, in Chromium: see __main__."""
