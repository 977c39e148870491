module pick

go 1.24
