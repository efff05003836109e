package flextest

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
)

// sid names the n-th thing of its kind on this server. The number is inside, so
// that nothing has to be searched for.
func (l *ledger) sid(prefix string, n uint64) string {
	return string(l.appendSID(make([]byte, 0, 34), prefix, n))
}

func (l *ledger) appendSID(buf []byte, prefix string, n uint64) []byte {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], l.run)
	binary.BigEndian.PutUint64(raw[8:], n)
	return hex.AppendEncode(append(buf, prefix...), raw[:])
}

// number is the n of a sid that this server gave, or 0.
func (l *ledger) number(prefix, sid string) uint64 {
	if !isSID(prefix, sid) {
		return 0
	}
	n, _ := strconv.ParseUint(sid[18:], 16, 64)
	if n == 0 || l.sid(prefix, n) != sid {
		return 0
	}
	return n
}
