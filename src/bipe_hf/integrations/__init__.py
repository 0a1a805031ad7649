"""One module or folder for each library that the models are used with."""
