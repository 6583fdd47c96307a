service "a" {
	image {
		context = "."
		servers = 3 port = 2
	}
