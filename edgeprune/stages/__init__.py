"""What each stage of the pipeline does; `pipeline.py` says in which order and when it may be skipped."""
