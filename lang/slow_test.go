//go:build !race

package lang_test

const slow = 1
