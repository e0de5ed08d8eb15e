"""The text on which the tokenizer of the tiny model is trained.

It is part of the tool, so that the merges are the same on every machine. A change of this text
changes token ids: raise the number in `catalog.TINY` with it.
"""

TEXT = """\
A program reads a request from the network, checks that it is well formed, and hands it to the
next program in the line. The text of the request becomes a list of tokens, and the tokens become
blocks of a fixed size. Each block has a hash, and the hash of a block depends on the blocks that
came before it, so that two prompts with the same beginning share their first hashes. A worker that
has seen the beginning already holds the keys and the values of these blocks in its memory, and it
can answer sooner than a worker that has to compute them again.

Once upon a time there was a small lighthouse on a rocky island. Every evening the keeper climbed
the stairs, lit the lamp, and watched the ships go by. When the weather was good she could see the
mountains on the other side of the water; when it was bad she could not see her own hands. One
night a bird came in through the open window and sat down beside the lamp. "Where do you come
from?" asked the keeper. "From the north," said the bird, "where the summer days have no end and
the winter nights have no morning." The keeper thought about this for a long time.

What is the capital of France? The capital of France is Paris. What is two and two? Two and two is
four. How many days are there in a year? There are three hundred and sixty-five days in a year, and
one more in a leap year. Which planet is the largest? Jupiter is the largest planet of the solar
system. Who wrote the first computer program? Many people say that it was Ada Lovelace. Can you
help me with my question? Of course, please tell me more about what you would like to know. Thank
you very much! You are welcome. Write a short story about a robot. Explain how a rainbow is made.
Summarize the following article in one sentence. Translate this into another language.

You are a helpful assistant. Answer the question of the user as well as you can, and say so when
you do not know the answer. Use the following tools when they are useful. The weather in the city
today is sunny with a light wind from the west. The temperature is about twenty degrees. Tomorrow
it will rain in the morning, and the afternoon will be cloudy.

def hello(name: str) -> str:
    return f"Hello, {name}!"

def fibonacci(number: int) -> int:
    first, second = 0, 1
    for index in range(number):
        first, second = second, first + second
    return first

class Queue:
    def __init__(self, size: int) -> None:
        self.items = []
        self.size = size

    def push(self, item: object) -> bool:
        if len(self.items) >= self.size:
            return False
        self.items.append(item)
        return True

    def pull(self) -> object:
        if not self.items:
            raise IndexError("the queue is empty")
        return self.items.pop(0)

if __name__ == "__main__":
    print(hello("world"), fibonacci(10), [value * 2 for value in range(5)])

{"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": true,
 "max_tokens": 16, "temperature": 0.0, "name": "function", "type": "object", "id": 1234567890}

The quick brown fox jumps over the lazy dog. She sells sea shells by the sea shore. All the water
in the river flows to the sea, yet the sea is never full. People walk along the street, children
play in the garden, and an old man reads the newspaper under a tree. Between the houses there is a
narrow path that leads down to the harbour. Some of the boats are painted blue and white, others
are green or red. In the market they sell bread, cheese, apples, onions, potatoes and fresh fish.
A good book can be read many times, and every time the reader will find something new in it.
Science begins with a question and a careful look at the world. First we observe, then we guess,
then we test the guess, and at last we tell other people what happened, so that they can try it
as well. Without numbers there is no measurement, and without measurement there is only opinion.
"""
