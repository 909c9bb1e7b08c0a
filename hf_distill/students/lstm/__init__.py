"""LSTM students. `configuration_lstm` and `modeling_lstm` are uploaded with a student and import only each other."""
