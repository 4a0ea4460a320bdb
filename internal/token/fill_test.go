package token

import "testing"

func TestFill_IPv6AddressesInBrackets(t *testing.T) {
	host, port, secret := Token{Kind: Ref, Name: "db", Field: "host"}, Token{Kind: Ref, Name: "db", Field: "port", Arg: "sql"}, Token{Kind: Ref, Name: "db", Field: "label", Arg: "x"}
	text := func(parts ...any) Text {
		var out Text
		for _, p := range parts {
			if s, ok := p.(string); ok {
				out = append(out, Segment{Lit: s})
			} else {
				tok := p.(Token)
				out = append(out, Segment{Token: &tok})
			}
		}
		return out
	}
	for _, c := range []struct {
		text     Text
		ip6, ip4 string
	}{
		{text(host), "fd00::11", "10.0.0.1"},
		{text("host=", host, " port=", port), "host=fd00::11 port=5432", "host=10.0.0.1 port=5432"},
		{text(host, ":", port), "[fd00::11]:5432", "10.0.0.1:5432"},
		{text(host, ":6379"), "[fd00::11]:6379", "10.0.0.1:6379"},
		{text("http://", host, ":", port, "/x"), "http://[fd00::11]:5432/x", "http://10.0.0.1:5432/x"},
		{text("http://", host, "/x"), "http://[fd00::11]/x", "http://10.0.0.1/x"},
		{text("http://", host), "http://[fd00::11]", "http://10.0.0.1"},
		{text("//", host, "?a"), "//[fd00::11]?a", "//10.0.0.1?a"},
		{text("postgres://app:", secret, "@", host, "/shop"), "postgres://app:y@[fd00::11]/shop", "postgres://app:y@10.0.0.1/shop"},
		{text("mongodb://", host, ":", port, ",", host, ":", port, ",", host, "/db"), "mongodb://[fd00::11]:5432,[fd00::11]:5432,[fd00::11]/db", "mongodb://10.0.0.1:5432,10.0.0.1:5432,10.0.0.1/db"},
		{text(host, ",", host), "fd00::11,fd00::11", "10.0.0.1,10.0.0.1"},
		{text("[", host, "]:", port), "[fd00::11]:5432", "[10.0.0.1]:5432"},
		{text("http://[", host, "]/"), "http://[fd00::11]/", "http://[10.0.0.1]/"},
		{text("http://x/?from=", host), "http://x/?from=fd00::11", "http://x/?from=10.0.0.1"},
		{text("allow ", host, "/64"), "allow fd00::11/64", "allow 10.0.0.1/64"},
		{text(host, ": the address"), "fd00::11: the address", "10.0.0.1: the address"},
		{text(host, ":"), "fd00::11:", "10.0.0.1:"},
		{text("server ", host, ":", port, ";\nserver ", host, ":80;\nlisten ", host), "server [fd00::11]:5432;\nserver [fd00::11]:80;\nlisten fd00::11", "server 10.0.0.1:5432;\nserver 10.0.0.1:80;\nlisten 10.0.0.1"},
	} {
		for address, want := range map[string]string{"fd00::11": c.ip6, "10.0.0.1": c.ip4} {
			got := c.text.Fill(func(t Token) string {
				switch t.Field {
				case "host":
					return address
				case "port":
					return "5432"
				}
				return "y"
			})
			if got != want {
				t.Errorf("%s: %q, want %q", c.text.Shown(), got, want)
			}
		}
	}
}

func TestURLHost(t *testing.T) {
	for in, want := range map[string]string{"fd00::11": "[fd00::11]", "::1": "[::1]", "10.0.0.1": "10.0.0.1", "db.example.com": "db.example.com", "[::1]": "[::1]"} {
		if got := URLHost(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
