"""Tasks that models are trained for or measured on."""
