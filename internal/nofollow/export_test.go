package nofollow

// WithoutOpenat2 has paths resolved component by component until the returned function is called.
func WithoutOpenat2() func() {
	before := noOpenat2.Swap(true)
	return func() { noOpenat2.Store(before) }
}
