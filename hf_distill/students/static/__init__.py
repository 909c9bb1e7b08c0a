"""Static students. `configuration_static` and `modeling_static` are uploaded with a student, import only each other."""
