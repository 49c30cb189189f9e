"""The programs that the server is measured beside, and the loads for wrk."""
