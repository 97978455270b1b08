package eif

import "hash/crc32"

// checksum joins the CRC-32s of the header (without its last four bytes), of each section's header and of
// each section's content into that of the file. The parts are summed apart because the sizes in the headers
// are known only when the content has gone by.
func checksum(header []byte, sections []Section, crcs []uint32) uint32 {
	sum := crc32.ChecksumIEEE(header[:offCRC])
	for i, s := range sections {
		sum = joinCRC(sum, crc32.ChecksumIEEE(s.header()), SectionHeaderSize)
		sum = joinCRC(sum, crcs[i], s.Size)
	}
	return sum
}

// joinCRC is the CRC-32 of two pieces of which the first has the CRC a and the second the CRC b and n bytes.
//
// A CRC is a polynomial over GF(2) modulo P; n more bytes multiply the first one's by x^(8n). The bits are
// reflected, as in all of IEEE CRC-32: bit 31 is the coefficient of x^0.
func joinCRC(a, b uint32, n int64) uint32 {
	power := uint32(1 << 31)        // x^0
	square := uint32(1 << (31 - 8)) // x^8, and then x^16, x^32 …: one for each bit of n
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			power = timesCRC(power, square)
		}
		square = timesCRC(square, square)
	}
	return timesCRC(a, power) ^ b
}

// timesCRC multiplies two reflected polynomials modulo that of CRC-32.
func timesCRC(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1 << 31); bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= crc32.IEEE
		}
	}
	return product
}
