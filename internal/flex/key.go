package flex

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"flexworker/internal/rawjson"
)

// LookupKey is the value by which an interaction's task is found again: 32
// lower-case hex digits that follow from the request id alone, so that a request
// replayed against an empty table is still recognised. It must never be changed:
// every key in a task, and in the table, would be lost.
func LookupKey(requestID string) string {
	sum := sha256.Sum256([]byte("flexworker:" + requestID))
	return hex.EncodeToString(sum[:16])
}

// AddLookupKey returns routing with attribute: key as the first of the task's
// attributes. These may be an object, a string that holds one, null or absent;
// nothing else in the text is changed, a string apart, which is written anew with
// the same content. It fails when routing.properties is no object, when the
// attributes are something else, and when the attribute is already there; the
// error begins with the path concerned.
func AddLookupKey(routing json.RawMessage, attribute, key string) (json.RawMessage, error) {
	raw, _ := rawjson.Member(routing, attributesPath...)
	if len(raw) > 0 && raw[0] == '"' {
		return addToString(routing, raw, attribute, key)
	}
	text, err := rawjson.Prepend(routing, attribute, key, attributesPath...)
	if err == nil {
		return text, nil
	}
	if _, ok := rawjson.Member(routing, "properties"); !ok { // also when routing is no object
		return nil, fmt.Errorf("routing.properties: %w", rawjson.ErrMissing)
	}
	return nil, fmt.Errorf("routing.%w", err)
}

var attributesPath = []string{"properties", "attributes"}

// addToString is AddLookupKey for attributes that are a string, raw.
func addToString(routing, raw []byte, attribute, key string) (json.RawMessage, error) {
	held, ok := rawjson.Text(raw)
	if !ok || !isObject(held) {
		return nil, fmt.Errorf("routing.properties.attributes: the string %w", rawjson.ErrNotObject)
	}
	inner, err := rawjson.Prepend(held, attribute, key)
	if err != nil {
		return nil, fmt.Errorf("routing.properties.attributes.%w", err)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // every character counts against the 4,096
	if err := enc.Encode(string(inner)); err != nil {
		return nil, fmt.Errorf("routing.properties.attributes: %w", err)
	}
	return rawjson.Replace(routing, bytes.TrimSpace(text.Bytes()), attributesPath...)
}

// isObject tells whether text is a valid JSON object.
func isObject(text []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) && rawjson.Valid(text)
}
