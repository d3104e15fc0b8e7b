"""Workers: model replicas on Ray that measure, collect and solve, one a device or some cores.

This process asks, keeps the journal and draws the front; a replica only measures and solves, and a
replica that dies costs what it was doing at that moment, which is done again elsewhere.
"""
