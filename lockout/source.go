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

// translated is the prefix under which IPv4 addresses come through a translator (RFC 6052): not one source, but all of them.
var translated = netip.MustParsePrefix("64:ff9b::/96")

// clean writes an address in the one way in which it is compared.
func clean(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if translated.Contains(a) {
		raw := a.As16()
		a = netip.AddrFrom4([4]byte(raw[12:]))
	}
	return a
}

// cleanNetwork does the same for a network.
func cleanNetwork(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

func within(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if cleanNetwork(p).Contains(a) {
			return true
		}
	}
	return false
}
