package app

import (
	"errors"
	"strconv"
	"strings"
)

const (
	versionKey = "Version"
	version    = "1"
)

var errEmpty = errors.New("it is empty; leave the record out instead")

func encode[T any](file string, fields []field[T], t *T) ([]byte, error) {
	b := append([]byte(nil), versionKey+"="+version+"\x00"...)
	var fresh T // the checks belong to reading: read back into a value nobody looks at
	for _, f := range fields {
		for _, value := range f.get(t) {
			if err := checkValue(value); err != nil {
				return nil, badRecord(file, f.key, err)
			}
			if err := f.take(&fresh, value); err != nil {
				return nil, badRecord(file, f.key, err)
			}
			b = append(b, f.key...)
			b = append(b, '=')
			b = append(b, value...)
			b = append(b, 0)
		}
	}
	if len(b) > MaxSize {
		return nil, tooLarge(file, len(b))
	}
	return b, nil
}

func decode[T any](file string, fields []field[T], t *T, b []byte) error {
	if len(b) > MaxSize {
		return tooLarge(file, len(b))
	}
	if len(b) == 0 || b[len(b)-1] != 0 {
		return errors.New(file + ": it does not end in a NUL byte: it was cut, or is not such a file")
	}
	seen := make([]bool, len(fields))
	for i, rest := 0, string(b); rest != ""; i++ {
		var record string
		record, rest, _ = strings.Cut(rest, "\x00")
		key, value, ok := strings.Cut(record, "=")
		if !ok {
			return errors.New(file + ": record " + strconv.Itoa(i+1) + " has no '='")
		}
		if i == 0 {
			if key != versionKey {
				return errors.New(file + ": the first record is " + strconv.Quote(key) + ", expected " + versionKey)
			}
			if value != version {
				return errors.New(file + ": version " + strconv.Quote(value) + ", and this program knows version " + version + " only: use the init that came with the packer")
			}
			continue
		}
		n := indexField(fields, key)
		if n < 0 {
			return errors.New(file + ": unknown field " + strconv.Quote(key) + ": use the init that came with the packer")
		}
		f := &fields[n]
		err := checkValue(value)
		if err == nil && seen[n] && !f.many {
			err = errors.New("it is given twice")
		}
		if err == nil {
			seen[n] = true
			err = f.take(t, value)
		}
		if err != nil {
			return badRecord(file, key, err)
		}
	}
	return nil
}

func indexField[T any](fields []field[T], key string) int {
	for i := range fields {
		if fields[i].key == key {
			return i
		}
	}
	return -1
}

func badRecord(file, key string, err error) error {
	return errors.New(file + ": " + key + ": " + err.Error())
}

func tooLarge(file string, n int) error {
	return errors.New(file + ": " + strconv.Itoa(n) + " bytes, and the limit is " + strconv.Itoa(MaxSize))
}

// checkValue holds for every value of every record.
func checkValue(s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("a NUL byte in " + strconv.Quote(s) + ": no program can be given one")
	}
	if len(s) > MaxValue {
		return errors.New(strconv.Itoa(len(s)) + " bytes, and the kernel passes at most " + strconv.Itoa(MaxValue) + " in one argument or variable")
	}
	return nil
}

func argument(string) error { return nil }

func variable(s string) error {
	if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
		return errors.New(strconv.Quote(s) + " is not NAME=value")
	}
	return nil
}

func absolute(s string) error {
	if s == "" || s[0] != '/' {
		return errors.New(strconv.Quote(s) + " is not an absolute path")
	}
	if len(s) > MaxPath {
		return errors.New("a path of " + strconv.Itoa(len(s)) + " bytes, and the limit is " + strconv.Itoa(MaxPath))
	}
	return nil
}

// user checks the shape alone: whether the names exist is known only where the image's /etc/passwd is.
func user(s string) error {
	name, group, colon := strings.Cut(s, ":")
	if name == "" || colon && group == "" || strings.ContainsAny(s, "/\n") || strings.Contains(group, ":") {
		return errors.New(strconv.Quote(s) + " is not USER or USER:GROUP")
	}
	return nil
}

func signal(s string) error {
	_, err := Signal(s)
	return err
}

func hostname(s string) error {
	if len(s) > MaxName {
		return errors.New("a name of " + strconv.Itoa(len(s)) + " bytes, and the limit is " + strconv.Itoa(MaxName))
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alphanumeric(c) && c != '.' && c != '-' {
			return errors.New(strconv.Quote(s) + " has a character that host names do not have")
		}
	}
	return nil
}

func word(s string) error {
	for i := 0; i < len(s); i++ {
		if !alphanumeric(s[i]) {
			return errors.New(strconv.Quote(s) + " is not one word")
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
