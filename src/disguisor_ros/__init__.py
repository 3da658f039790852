"""Every face in a calibrated multi-view RGB-D room, found in 3D and replaced in every camera.

core
    The algorithms, a stage at a time: arrays in, arrays out. No ROS, no files.
nodes
    The stages as ROS 2 nodes, each thin around one class of core.
bridge
    Between messages or bags and the arrays of core.
graph, security, shared_memory
    The stages as processes: start, watch, stop; who may read what; what the killed leave behind.
cli
    The ``disguisor`` command. Its commands lie in run, sim, eval, importers, security and demo.
pose_models, tfjs_onnx
    The networks of the optional stage pose2d: fetched and converted once.
"""
