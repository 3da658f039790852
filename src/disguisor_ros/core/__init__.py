"""Algorithms: arrays in, arrays out. Nothing here knows of ROS, messages or files.

By stage; the first module of each has what the node calls.

synchronizer
    synchronization
pose2d, optional
    pose2d: detector; families, face_detector, onnx_session; instant_queue
pose3d
    pose3d; detections, association, assignment; multiview: triangulation, refinement;
    posture, placement: people whom one view sees; floor, tracking
    self_calibration, agreement, depth_watch: whether cameras and their depth are right
smpl_fitter
    fitting; body_models, observations, head_pose
head_registrar
    registration; depth_evidence, distance_field, alignment, pose_filter
face_renderer
    anonymize; sightings, safety_net; face_cover: posed_head, occlusion, named_face, face_claim;
    rendering, open3d_loader, attire, calibration_watch
of several
    types: what the stages hand to each other; cameras, head_template, skeleton, motion, boxes,
    rotations, covariance, least_squares
"""
