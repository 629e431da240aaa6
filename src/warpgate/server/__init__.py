"""What a group hosts for itself: names, and beside them STUN and an MQTT broker."""
