// Package e2e tests defx as it is delivered on machines as they are. It holds
// tests alone.
package e2e
