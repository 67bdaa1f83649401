// The parse limit: simdjson On-Demand over newline-delimited JSON, every field extracted, nothing written.
//
//   floor <threads> <file>...
//
// Threads take the files one after the other and keep one buffer each. A field's key is seen but not looked up, a string is unescaped,
// a number becomes the integer or the double that it is written as. Reading the files (from the page cache) is part of the time.
// Prints seconds from before the first thread to after the last, and sums, so that nothing is optimised away.

#include <simdjson.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using namespace simdjson;

struct Sums {
    uint64_t bytes = 0, records = 0, values = 0, text = 0;
    double numbers = 0;

    void operator+=(const Sums &other) {
        bytes += other.bytes, records += other.records, values += other.values, text += other.text, numbers += other.numbers;
    }
};

static void extract(ondemand::value value, Sums &sums) {
    switch (value.type()) {
    case ondemand::json_type::object:
        for (auto field : value.get_object()) {
            sums.text += uint8_t(field.key().raw()[0]);
            extract(field.value(), sums);
        }
        return;
    case ondemand::json_type::array:
        for (auto item : value.get_array()) extract(item.value(), sums);
        return;
    case ondemand::json_type::string: sums.text += std::string_view(value.get_string()).size(); break;
    case ondemand::json_type::number: sums.numbers += ondemand::number(value.get_number()).as_double(); break;
    case ondemand::json_type::boolean: sums.numbers += bool(value.get_bool()); break;
    case ondemand::json_type::null: break;
    }
    sums.values++;
}

static std::vector<uint8_t> load(const char *path, std::vector<uint8_t> buffer, size_t &size) {
    FILE *file = std::fopen(path, "rb");
    if (!file) throw std::runtime_error(std::string("cannot open ") + path);
    std::fseek(file, 0, SEEK_END);
    size = size_t(std::ftell(file));
    std::rewind(file);
    if (buffer.size() < size + SIMDJSON_PADDING) buffer.resize(size + SIMDJSON_PADDING);
    if (std::fread(buffer.data(), 1, size, file) != size) throw std::runtime_error(std::string("cannot read ") + path);
    std::fclose(file);
    return buffer;
}

static Sums parse(const std::vector<const char *> &paths, std::atomic<size_t> &next) {
    Sums sums;
    ondemand::parser parser;
    parser.threaded = false;
    std::vector<uint8_t> buffer;
    for (size_t mine; (mine = next++) < paths.size();) {
        size_t size = 0;
        buffer = load(paths[mine], std::move(buffer), size);
        sums.bytes += size;
        ondemand::document_stream records = parser.iterate_many(buffer.data(), size);
        for (auto record : records) {
            for (auto field : record.get_object()) {
                sums.text += uint8_t(field.key().raw()[0]);
                extract(field.value(), sums);
            }
            sums.records++;
        }
        if (records.truncated_bytes()) throw std::runtime_error(std::string("a record is cut off at the end of ") + paths[mine]);
    }
    return sums;
}

int main(int count, char **arguments) {
    if (count < 3) return std::fprintf(stderr, "floor <threads> <file>...\n"), 2;
    std::vector<const char *> paths(arguments + 2, arguments + count);
    std::atomic<size_t> next{0};
    std::vector<Sums> sums(size_t(std::atoi(arguments[1])));
    std::vector<std::thread> threads;
    auto begin = std::chrono::steady_clock::now();
    for (Sums &mine : sums) {
        threads.emplace_back([&] {
            try {
                mine = parse(paths, next);
            } catch (const std::exception &error) {
                std::fprintf(stderr, "%s\n", error.what());
                std::exit(1);
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    Sums all;
    for (const Sums &mine : sums) all += mine;
    std::printf("{\"seconds\": %.4f, \"bytes\": %llu, \"records\": %llu, \"values\": %llu, \"sums\": [%llu, %g]}\n", seconds.count(),
                (unsigned long long)all.bytes, (unsigned long long)all.records, (unsigned long long)all.values,
                (unsigned long long)all.text, all.numbers);
}
