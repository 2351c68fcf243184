print("ultrac")
