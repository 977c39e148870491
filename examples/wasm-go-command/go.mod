module csv2json

go 1.24
