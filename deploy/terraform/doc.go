// Package terraform applies modules of resources with Terraform or OpenTofu.
//
// Each module has a directory below the state: its configuration, its Terraform
// state, and entry.json, which records what is deployed. Terraform runs in a worker
// process that continues if defx is killed: it completes and records the change,
// and the next apply finds it done. So a resource whose creation was interrupted is
// never created twice.
//
// The package knows directories, processes and Terraform's plans. It refuses to
// know what resources mean. Invariants: entry.json marks a module as uncertain
// before Terraform changes anything; at most one worker runs in a directory; other
// users cannot read its files; a module with an equal digest starts no Terraform.
package terraform
