package graph

import _ "embed"

// Source is the text of graph.go: the generated reference quotes the comments of its fields.
//
//go:embed graph.go
var Source string
