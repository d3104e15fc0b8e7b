"""optishear"""
