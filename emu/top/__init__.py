"""`vemu top`: what a running machine does at the moment."""
