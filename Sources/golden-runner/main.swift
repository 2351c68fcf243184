print("golden-runner")
