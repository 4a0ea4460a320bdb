// Package ec2 has end-to-end tests of resources: the real Terraform with the real provider
// against moto, which simulates AWS. DEFX_TEST_TERRAFORM, DEFX_TEST_TF_MIRROR and
// DEFX_TEST_MOTO name what they need.
package ec2
