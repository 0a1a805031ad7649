"""The ground floor of the lab: what its parts share."""
