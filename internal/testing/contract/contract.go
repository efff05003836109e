// Package contract holds texts against the published schemas, docs/schema: is this a request, is this a result, as the
// services around the worker are told that they look?
package contract

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"flexworker/docs/schema"
)

// Request says what makes text no request by docs/schema/request.json; nil: it is one.
func Request(text []byte) error { return validate(request, text) }

// Result says what makes text no result by docs/schema/result.json; nil: it is one.
func Result(text []byte) error { return validate(result, text) }

var (
	request = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile("request.json", schema.Request) })
	result  = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile("result.json", schema.Result) })
)

// compile reads a schema. A format is held, as most validators of services can be told to.
func compile(name string, text []byte) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, document); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c.Compile(name)
}

func validate(compiled func() (*jsonschema.Schema, error), text []byte) error {
	s, err := compiled()
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}
