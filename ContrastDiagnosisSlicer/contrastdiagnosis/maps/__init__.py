"""Why two nodules are alike: Siamese Local-CAM, and whose evidence a distance is."""
