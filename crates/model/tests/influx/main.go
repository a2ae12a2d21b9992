// Says what InfluxDB's own parser makes of lines: one in hexadecimal digits a line of input, one JSON value a line of output.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/influxdata/influxdb1-client/models"
)

type field struct {
	Key   string
	Value string
}

type answer struct {
	Error  string     `json:",omitempty"`
	Name   string     `json:",omitempty"`
	Tags   [][]string `json:",omitempty"`
	Fields []field    `json:",omitempty"`
	Time   int64
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		line, err := hex.DecodeString(in.Text())
		if err != nil {
			panic(err)
		}
		if err := out.Encode(parse(line)); err != nil {
			panic(err)
		}
	}
}

func parse(line []byte) (a answer) {
	points, err := models.ParsePointsWithPrecision(line, time.Unix(0, 0), "ns")
	if err != nil {
		a.Error = err.Error()
		return
	}
	if len(points) != 1 {
		a.Error = fmt.Sprintf("%d points", len(points))
		return
	}
	p := points[0]
	a.Name, a.Time = string(p.Name()), p.Time().UnixNano()
	for _, tag := range p.Tags() {
		a.Tags = append(a.Tags, []string{string(tag.Key), string(tag.Value)})
	}
	for it := p.FieldIterator(); it.Next(); {
		f := field{Key: string(it.FieldKey())}
		switch it.Type() {
		case models.Float:
			v, err := it.FloatValue()
			f.Value = fmt.Sprintf("float %016x %v", math.Float64bits(v), err)
		case models.Integer:
			v, err := it.IntegerValue()
			f.Value = fmt.Sprintf("integer %d %v", v, err)
		case models.Boolean:
			v, err := it.BooleanValue()
			f.Value = fmt.Sprintf("boolean %v %v", v, err)
		case models.String:
			f.Value = "text " + it.StringValue()
		}
		a.Fields = append(a.Fields, f)
	}
	return
}
