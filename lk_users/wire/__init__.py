"""What goes over the network, for users and the reference agent alike."""
