// Package schema has the documents that describe what services send and read: JSON Schema 2020-12 of a request and of a
// result, and an AsyncAPI 3.0 document over both. They are written by hand; `worker schema` prints them.
package schema

import _ "embed"

// Request describes what a service sends.
//
//go:embed request.json
var Request []byte

// Result describes what a service reads.
//
//go:embed result.json
var Result []byte

// AsyncAPI describes the subjects and the messages on them. It refers to the two others as files beside it.
//
//go:embed asyncapi.yaml
var AsyncAPI []byte
