package database

import (
	"encoding/binary"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"
)

// RegisterTexts lets a connection write arrays of texts in one piece. pgx writes every
// array element by element, by reflection, into a buffer that doubles as it grows: that
// was a quarter of what the worker allocated. Without this all works the same, slower; so
// it does in the modes exec and simple_protocol, where pgx does not know what a parameter
// is to be and goes by its Go type. Bytes would be bytea there: texts have to be strings.
func RegisterTexts(m *pgtype.Map) {
	if array, ok := m.TypeForOID(pgtype.TextArrayOID); ok {
		m.RegisterType(&pgtype.Type{Name: array.Name, OID: array.OID, Codec: textArrays{array.Codec}})
	}
}

// textArrays is pgx's codec but for the slices that our statements pass.
type textArrays struct{ pgtype.Codec }

// PlanEncode is pgtype.Codec's.
func (c textArrays) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if format == pgtype.BinaryFormatCode {
		switch value.(type) {
		case []string, []*string:
			return textPlan{}
		}
	}
	return c.Codec.PlanEncode(m, oid, format, value)
}

type textPlan struct{}

// Encode is pgtype.EncodePlan's. A nil slice is null, and so is a nil element.
func (textPlan) Encode(value any, buf []byte) ([]byte, error) {
	switch texts := value.(type) {
	case []string:
		if texts != nil {
			return appendTexts(buf, len(texts), func(i int) (string, bool) { return texts[i], true }), nil
		}
	case []*string:
		if texts != nil {
			return appendTexts(buf, len(texts), func(i int) (string, bool) {
				if texts[i] == nil {
					return "", false
				}
				return *texts[i], true
			}), nil
		}
	}
	return nil, nil
}

// appendTexts appends n texts in the form of array_recv, once there is room for all of
// them: src/backend/utils/adt/arrayfuncs.c.
func appendTexts(buf []byte, n int, at func(i int) (text string, ok bool)) []byte {
	size, nulls := 5*4+4*n, uint32(0)
	for i := range n {
		text, ok := at(i)
		if size += len(text); !ok {
			nulls = 1
		}
	}
	buf = slices.Grow(buf, size)
	for _, word := range []uint32{1, nulls, pgtype.TextOID, uint32(n), 1} { // dimensions, nulls, of what, how many, from which index
		buf = binary.BigEndian.AppendUint32(buf, word)
	}
	for i := range n {
		text, ok := at(i)
		if !ok {
			buf = binary.BigEndian.AppendUint32(buf, 0xffffffff) // -1
			continue
		}
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(text))), text...)
	}
	return buf
}
