"""Tables and figures from the files that runs published; imports neither torch nor timm nor mlflow."""
