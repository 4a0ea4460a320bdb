package graph

import _ "embed"

// Source is the text of graph.go: the comments of its fields are what users read of them.
//
//go:embed graph.go
var Source string
