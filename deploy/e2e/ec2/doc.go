// Package ec2 holds stories of resources: the real Terraform with the real
// provider, against moto, which plays the cloud. What they need is named by
// DEFX_TEST_TERRAFORM, DEFX_TEST_TF_MIRROR and DEFX_TEST_MOTO.
package ec2
