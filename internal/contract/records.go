package contract

import (
	"errors"
	"strconv"
	"strings"
)

const (
	versionKey = "Version"
	version    = "1"
)

// A field maps a key to a variable: one of list, text, number and flag. A record that may occur more than
// once is a list. A zero value has no record.
type field struct {
	key    string
	list   *[]string
	text   *string
	number *uint32
	flag   *bool

	check func(string) error // of a text, and of each element of a list; may be nil
	word  string             // what is written for a flag that is set
	limit uint32             // of a number
	octal bool               // of a number: written in base 8 with a leading 0
	seen  bool               // while reading
}

// values returns the values of the field's records.
func (f *field) values() []string {
	switch {
	case f.list != nil:
		return *f.list
	case f.text != nil && *f.text != "":
		return []string{*f.text}
	case f.number != nil && *f.number != 0:
		return []string{f.write(*f.number)}
	case f.flag != nil && *f.flag:
		return []string{f.word}
	}
	return nil
}

func (f *field) write(n uint32) string {
	if f.octal {
		return "0" + strconv.FormatUint(uint64(n), 8)
	}
	return strconv.FormatUint(uint64(n), 10)
}

// take decodes the value of one record.
func (f *field) take(value string) error {
	if err := checkValue(value); err != nil {
		return err
	}
	if f.seen && f.list == nil {
		return errors.New("it occurs twice")
	}
	f.seen = true
	switch {
	case f.list != nil:
		*f.list = append(*f.list, value)
	case f.text != nil:
		if value == "" {
			return errors.New("it is empty: omit the record instead")
		}
		*f.text = value
	case f.number != nil:
		base := 10
		if f.octal {
			base = 8
		}
		n, err := strconv.ParseUint(value, base, 32)
		if err != nil || n == 0 || n > uint64(f.limit) || f.write(uint32(n)) != value {
			return errors.New(strconv.Quote(value) + ", expected a number from " + f.write(1) + " to " +
				f.write(f.limit))
		}
		*f.number = uint32(n)
	case f.flag != nil:
		if value != f.word {
			return errors.New(strconv.Quote(value) + ", expected " + strconv.Quote(f.word))
		}
		*f.flag = true
	}
	if f.check != nil {
		return f.check(value)
	}
	return nil
}

// encode encodes fields. It decodes them into fresh, the fields of a new value, to ensure that init can.
func encode(file string, fields, fresh []field) ([]byte, error) {
	b := append([]byte(nil), versionKey+"="+version+"\x00"...)
	records := 1
	for i := range fields {
		key := fields[i].key
		for _, value := range fields[i].values() {
			if err := fresh[i].take(value); err != nil {
				return nil, badRecord(file, key, err)
			}
			b = append(b, key...)
			b = append(b, '=')
			b = append(b, value...)
			b = append(b, 0)
			records++
		}
	}
	return b, fits(file, len(b), records)
}

// decode decodes fields. Their values are substrings of s, not copies: init keeps them as long as it runs.
func decode(file string, fields []field, s string) error {
	if err := fits(file, len(s), strings.Count(s, "\x00")); err != nil {
		return err
	}
	if s == "" || s[len(s)-1] != 0 {
		return errors.New(file + ": it does not end in a NUL byte: it is truncated, or not a file of records")
	}
	for i, rest := 0, s; rest != ""; i++ {
		var record string
		record, rest, _ = strings.Cut(rest, "\x00")
		key, value, ok := strings.Cut(record, "=")
		if !ok {
			return errors.New(file + ": record " + strconv.Itoa(i+1) + " has no '='")
		}
		if i == 0 {
			if key != versionKey {
				return errors.New(file + ": the first record is " + strconv.Quote(key) +
					", expected " + versionKey)
			}
			if value != version {
				return errors.New(file + ": version " + strconv.Quote(value) + ", expected " + version +
					": use the init that came with the packer")
			}
			continue
		}
		f := find(fields, key)
		if f == nil {
			return errors.New(file + ": unknown field " + strconv.Quote(key) +
				": use the init that came with the packer")
		}
		if err := f.take(value); err != nil {
			return badRecord(file, key, err)
		}
	}
	return nil
}

func find(fields []field, key string) *field {
	for i := range fields {
		if fields[i].key == key {
			return &fields[i]
		}
	}
	return nil
}

func badRecord(file, key string, err error) error {
	return errors.New(file + ": " + key + ": " + err.Error())
}

// fits checks the limits of every file.
func fits(file string, size, records int) error {
	if size > MaxSize {
		return errors.New(file + ": " + strconv.Itoa(size) + " bytes, the limit is " + strconv.Itoa(MaxSize))
	}
	if records > MaxRecords {
		return errors.New(file + ": " + strconv.Itoa(records) +
			" records (each argument and variable is one), the limit is " + strconv.Itoa(MaxRecords))
	}
	return nil
}

// checkValue checks the value of any record.
func checkValue(s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New(strconv.Quote(s) + " has a NUL byte, which arguments and variables cannot hold")
	}
	if len(s) > MaxValue {
		return errors.New(strconv.Itoa(len(s)) +
			" bytes, the kernel's limit for one argument or variable is " + strconv.Itoa(MaxValue))
	}
	return nil
}

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
		return errors.New("path of " + strconv.Itoa(len(s)) + " bytes, the limit is " + strconv.Itoa(MaxPath))
	}
	return nil
}

// user checks the syntax only, because the names are in the image's /etc/passwd. Each side of the colon may
// be empty, as in Docker.
func user(s string) error {
	name, group, _ := strings.Cut(s, ":")
	if strings.ContainsAny(s, "/\n") || strings.Contains(group, ":") {
		return errors.New(strconv.Quote(s) + ": expected USER or USER:GROUP")
	}
	for _, part := range []string{name, group} {
		if _, _, err := ID(part); err != nil {
			return err
		}
	}
	return nil
}

// ID parses one side of [Description.User]. As for Docker (GetExecUser of moby/sys/user), what looks like a
// number, with or without a sign, is never a name. A number that is negative or larger than [MaxID] is an
// error.
func ID(s string) (n int, numeric bool, err error) {
	n64, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, false, nil
	}
	if err != nil || n64 < 0 || n64 > MaxID {
		return 0, true, errors.New("invalid number " + strconv.Quote(s) +
			" of a user or group: expected 0 to " +
			strconv.Itoa(MaxID))
	}
	return int(n64), true, nil
}

func signal(s string) error {
	_, err := Signal(s)
	return err
}

func hostname(s string) error {
	if len(s) > MaxName {
		return errors.New("name of " + strconv.Itoa(len(s)) + " bytes, the limit is " + strconv.Itoa(MaxName))
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alphanumeric(c) && c != '.' && c != '-' {
			return errors.New(strconv.Quote(s) + ": expected letters, digits, dots and dashes only")
		}
	}
	return nil
}

func word(s string) error {
	for i := 0; i < len(s); i++ {
		if !alphanumeric(s[i]) {
			return errors.New(strconv.Quote(s) + ": expected one word of letters and digits")
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
