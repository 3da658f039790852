"""Every face in a calibrated multi-view RGB-D room, found in 3D and replaced in every camera."""
