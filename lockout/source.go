package lockout

import (
	"net/netip"
	"strings"
)

// Source returns where a request comes from: the peer of the connection or, when that is one of the library's own proxies, the address that the proxy got it from, and so on
// while that is a trusted proxy too. Forwarded are the values of the X-Forwarded-For headers, in their order. They are read from the right, because what stands
// further left was written by whoever sent the request. Where something is no address, the proxy that wrote it is the answer. A peer that is no address, as on a Unix socket, is
// nobody's proxy: the answer is the zero Addr then, which is not counted, so say an address of your own for it, such as 127.0.0.1.
func Source(peer netip.Addr, forwarded []string, trusted []netip.Prefix) netip.Addr {
	list := strings.Split(strings.Join(forwarded, ","), ",")
	at := clean(peer)
	for i := len(list) - 1; i >= 0 && within(at, trusted); i-- {
		text := strings.TrimSpace(list[i])
		next, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
		if err != nil {
			withPort, err := netip.ParseAddrPort(text)
			if err != nil {
				break
			}
			next = withPort.Addr()
		}
		at = clean(next)
	}
	return at
}

func clean(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func within(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
