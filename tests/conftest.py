import hypothesis

# Wall-clock limits on an example would make a busy machine look like a bug.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")
