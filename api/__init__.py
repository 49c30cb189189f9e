"""What every request and reply has to do with HTTP; knows no query."""
