package access

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"flexworker/internal/outbox/operator"
)

// What the groups of X-Forwarded-Groups mean, which are parted by commas. Any other group means nothing.
const (
	GroupActs  = "flexworker-act"
	GroupLooks = "flexworker-look"
)

// ParseProxies reads TRUSTED_PROXIES: addresses and prefixes, parted by commas. Its error quotes nothing.
func ParseProxies(list string) ([]netip.Prefix, error) {
	var trusted []netip.Prefix
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if one, errOne := netip.ParseAddr(part); errOne == nil {
			one = one.Unmap().WithZone("")
			p, err = netip.PrefixFrom(one, one.BitLen()), nil
		}
		if err != nil {
			return nil, errors.New("it is not a list of addresses and prefixes")
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Bits() == 0 {
			return nil, errors.New("it trusts every address, so that anybody could say who they are")
		}
		trusted = append(trusted, p.Masked())
	}
	return trusted, nil
}

// trusts says whether an address is that of a trusted proxy.
func (a *Access) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(a.config.Trusted, func(p netip.Prefix) bool { return p.Contains(address) })
}

// peer is the address at the other end of the connection; the zero address: it has none that can be read.
func peer(r *http.Request) netip.Addr {
	at, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero address is trusted by nobody
	return at.Addr().Unmap().WithZone("")
}

// forwarded is whom a trusted proxy names. said: it names somebody. A header that came twice is refused: the proxy
// adds to what its client sent, in place of removing it.
func (a *Access) forwarded(r *http.Request) (c operator.Caller, said bool, err error) {
	users := r.Header.Values("X-Forwarded-User")
	if len(users) == 0 || !a.trusts(peer(r)) {
		return c, false, nil
	}
	groups := r.Header.Values("X-Forwarded-Groups")
	name, ok := named(users[0])
	if !ok || len(users) > 1 || len(groups) > 1 {
		return c, true, fmt.Errorf("%w: the proxy hands on X-Forwarded-User or X-Forwarded-Groups twice, or what is no name", ErrWrong)
	}
	c.Name = name
	for group := range strings.SplitSeq(strings.Join(groups, ""), ",") {
		switch strings.TrimSpace(group) {
		case GroupActs:
			c.Right = operator.MayAct
		case GroupLooks:
			c.Right = max(c.Right, operator.MayLook)
		}
	}
	return c, true, nil
}

// address is where a request comes from. Behind trusted proxies it is the last address of X-Forwarded-For that is none
// of them: what stands before that address, its client may have made up.
func (a *Access) address(r *http.Request) netip.Addr {
	at := peer(r)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !a.trusts(at) {
			break
		}
		before, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = before.Unmap().WithZone("")
	}
	return at
}
