"""`segpipe compress`: a trained run made smaller step by step, until something fits a budget."""
