package token

import (
	"net/netip"
	"regexp"
	"strings"
)

// Fill returns the text with every token replaced by its value. Where the value is an IPv6
// address and the text goes on with a port, or is a URL whose host it is, the address is written
// in brackets, as URLs and almost all programs require: 'http://%s:%s' % [x.host, x.port('web')]
// is right for every kind of address. Elsewhere the address is written as it is. value is called
// for each token in order.
func (t Text) Fill(value func(Token) string) string {
	var b strings.Builder
	for i, s := range t {
		if s.Token == nil {
			b.WriteString(s.Lit)
			continue
		}
		b.WriteString(InBrackets(b.String(), value(*s.Token), t[i+1:]))
	}
	return b.String()
}

// authorityRE matches text that ends inside the host of a URL, where a host begins: after "//",
// after a user, or after a comma between hosts.
var authorityRE = regexp.MustCompile(`//([^\s/?#"'<>]*[@,])?$`)

// InBrackets returns a value as it is written after the text before and in front of the rest of
// its text: an IPv6 address in brackets if that is the host of a URL or if a port follows.
func InBrackets(before, value string, rest Text) string {
	if a, err := netip.ParseAddr(value); err != nil || !a.Is6() || !portFollows(rest) && !authorityRE.MatchString(before) {
		return value
	}
	return URLHost(value)
}

// portFollows reports whether a text begins with ":" and a digit or a token.
func portFollows(t Text) bool {
	if len(t) == 0 || t[0].Token != nil || !strings.HasPrefix(t[0].Lit, ":") {
		return false
	}
	if rest := t[0].Lit[1:]; rest != "" {
		return rest[0] >= '0' && rest[0] <= '9'
	}
	return len(t) > 1
}

// URLHost returns a host name or address as it is written in URLs and before a port.
func URLHost(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return "[" + host + "]"
	}
	return host
}
