"""Where work is done besides this process: model replicas on Ray, one a device or a few cores each.

This process asks, keeps the journal and draws the front; a replica only measures and solves, and a
replica that dies costs what it was doing at that moment, which is done again elsewhere.
"""
