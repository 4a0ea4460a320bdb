// Package e2e tests the released defx on real machines. It contains only tests.
package e2e
