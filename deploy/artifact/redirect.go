package artifact

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// A URL comes from a library, and the server that it names may answer with another URL. That must
// not lead to what only this host can reach: a service on it, its network, or the metadata of its
// cloud. So a redirect may lead to public addresses, and to addresses of the kind that the first
// server has.

// network is a kind of addresses.
type network int

const (
	public network = iota
	private
	loopback
	linkLocal // includes the metadata services of clouds, and what is no address of a host
)

func (n network) String() string {
	return [...]string{"public", "private", "loopback", "link-local"}[n]
}

// sharedNetwork has addresses that carriers and clouds use inside (RFC 6598).
var sharedNetwork = netip.MustParsePrefix("100.64.0.0/10")

// siteLocal has the addresses that were private before fc00::/7 was.
var siteLocal = netip.MustParsePrefix("fec0::/10")

// networkOf returns the kind of an address.
func networkOf(a netip.Addr) network {
	a = a.Unmap()
	if a.Is6() { // an IPv4 address for translators (RFC 6052) or in a tunnel (RFC 3056)
		b := a.As16()
		switch {
		case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
			return networkOf(netip.AddrFrom4([4]byte(b[12:])))
		case netip.MustParsePrefix("2002::/16").Contains(a):
			return networkOf(netip.AddrFrom4([4]byte(b[2:6])))
		}
	}
	switch {
	case a.IsLoopback():
		return loopback
	case a.IsLinkLocalUnicast(), a.IsMulticast(), a.IsUnspecified(), !a.IsValid(), a == netip.MustParseAddr("fd00:ec2::254"):
		return linkLocal
	case a.IsPrivate(), sharedNetwork.Contains(a), siteLocal.Contains(a):
		return private
	}
	return public
}

// fetcher follows the redirects of one download.
type fetcher struct {
	transport *http.Transport
	isFirst   bool // the first server is being asked

	mu    sync.Mutex
	first network // of the first server
}

// maxRedirects is how many redirects one download may have.
const maxRedirects = 10

// Tests replace them.
var (
	resolve  = net.DefaultResolver.LookupNetIP // returns the addresses of a host
	classify = networkOf
)

// get requests a URL, follows its redirects, and returns the response with content.
func get(ctx context.Context, address string) (*http.Response, error) {
	f := &fetcher{isFirst: true, transport: &http.Transport{TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true}}
	if base, ok := http.DefaultTransport.(*http.Transport); ok {
		f.transport = base.Clone()
	}
	f.transport.DisableKeepAlives = true // a connection that was made for another server would not be checked
	f.transport.DialContext = (&net.Dialer{Timeout: 30 * time.Second, Control: f.control}).DialContext
	client := &http.Client{Transport: f.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range maxRedirects + 1 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", "defx")
		// A compressed tar must arrive with the bytes that were digested.
		req.Header.Set("Accept-Encoding", "identity")
		if err := f.throughProxy(req); err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			if u, ok := errors.AsType[*url.Error](err); ok { // the URL of a redirect may have a password of the server
				err = u.Err
			}
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		resp.Body.Close()
		next, err := target(req.URL, resp)
		if err != nil {
			return nil, err
		}
		address, f.isFirst = next, false
	}
	return nil, fmt.Errorf("it has more than %d redirects", maxRedirects)
}

// target returns the URL that a response redirects to.
func target(from *url.URL, resp *http.Response) (string, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return "", fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" || to.User != nil {
		return "", errors.New("the server redirects to what is no URL of a file")
	}
	if from.Scheme == "https" && to.Scheme == "http" {
		return "", errors.New("the server redirects from https to http")
	}
	return to.String(), nil
}

// allow checks an address that is asked. That of the first server decides which others may be.
func (f *fetcher) allow(a netip.Addr) error {
	f.mu.Lock() // several addresses may be tried at once
	defer f.mu.Unlock()
	n := classify(a)
	if f.isFirst {
		f.first = n
		return nil
	}
	if n != public && n != f.first {
		return fmt.Errorf("the server redirects to a %s address, which is refused", n)
	}
	return nil
}

// control checks each address when it is connected to: a name may have another address by then.
func (f *fetcher) control(_, address string, _ syscall.RawConn) error {
	if f.transport.Proxy != nil { // this is the address of the proxy
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return f.allow(at.Addr())
}

// throughProxy chooses whether a request goes through the proxy of the environment. If so, the
// addresses of its host are checked as far as this host knows them, because the proxy connects.
func (f *fetcher) throughProxy(req *http.Request) error {
	proxy, err := http.ProxyFromEnvironment(req)
	if err != nil {
		return err
	}
	if proxy == nil {
		f.transport.Proxy = nil
		return nil
	}
	f.transport.Proxy = http.ProxyURL(proxy)
	var list []netip.Addr
	if a, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		list = []netip.Addr{a}
	} else {
		list, _ = resolve(req.Context(), "ip", req.URL.Hostname())
	}
	for _, a := range list {
		if err := f.allow(a); err != nil {
			return err
		}
	}
	return nil
}
