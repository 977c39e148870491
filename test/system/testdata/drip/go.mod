module drip

go 1.26
