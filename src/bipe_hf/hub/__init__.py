"""What goes to the Hub beside a model: its card, and the push itself."""
