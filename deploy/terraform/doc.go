// Package terraform makes modules of resources true with Terraform or OpenTofu.
//
// Each module has a folder of its own below the state: its configuration, its
// Terraform state, and entry.json, which says what stands. Terraform runs in a
// child process of ours that lives on when we die: what it has begun it
// finishes and writes down, and the next apply finds it done. So a resource
// that was being made is never made twice.
//
// The package knows folders, processes and plans of Terraform's. It refuses to
// know what resources mean. Invariants: entry.json says that a module is in
// doubt before Terraform changes anything; one child at a time in a folder; no
// file in it can be read by others; an equal digest starts nothing.
package terraform
